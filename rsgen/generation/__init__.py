"""Parts of the generate stage: which layouts, how they become pictures."""
