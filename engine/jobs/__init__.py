"""What the control plane and every job program share: directory layout, shim, program contract, atomic files.

A job is a directory. Each file in it has one writer:

=================  ==============================================  =======================
file               what                                            written by
=================  ==============================================  =======================
``spec.json``      what to do                                      control, before launch
``launch.json``    what control must remember between attempts     control
``lock``           held by the shim while it lives                 shim
``run.json``       pids and kernel start times                     shim
``log.txt``        standard output and error                       program, through shim
``events.jsonl``   ordered events                                  program
``result.json``    what came of it                                 program
``failure.json``   the typed reason                                program
``exit.json``      exit status, by atomic rename                   shim
=================  ==============================================  =======================
"""

SHIM = "engine.jobs.shim"
"""The module that runs a job: ``python -m engine.jobs.shim JOB_DIR [--timeout-s SECONDS] COMMAND…``."""
TIMEOUT_OPTION = "--timeout-s"
