"""What a filter run claims and shows: bounds that hold, the audit behind them, the report."""
