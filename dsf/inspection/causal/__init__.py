"""What a replaced token moves: who mixes tokens, which axis is which, what a map leaves out."""
