"""The commands of `fw`, one module for each subject; heavy imports stand inside the functions that need them."""
