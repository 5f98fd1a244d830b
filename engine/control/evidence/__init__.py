"""What evaluations prove: comparisons, and the gates that rest on them."""
