"""Export to deployable files, and the check that their predictions equal those of the run."""
