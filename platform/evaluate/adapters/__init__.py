"""Models of others behind the interface of ``evaluate.models``, a file for each way in which they are kept."""
