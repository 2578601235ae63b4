"""What every feature of the cloud side stands on: errors, ids, the clock, the scope of a call."""
