"""How good a classifier is: measures, their files, the pictures, the report. Never sees torch."""
