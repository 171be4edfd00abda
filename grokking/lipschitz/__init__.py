"""Networks whose outputs cannot change faster than their inputs: kept so in training, certified, and attacked."""
