"""Tables and figures made from logged runs and prediction tables."""
