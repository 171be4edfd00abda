"""Training of cohorts: the only code that knows that many runs train side by side."""
