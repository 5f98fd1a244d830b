"""How operators are checked: Triton's interpreter repaired, machine code without a GPU, distances from float64."""
