"""What each command of the command line does; `grokking.cli` parses for them."""
