"""Folders that ``clipdemo train`` writes."""
