"""What can be asked, one module per subject; each builds its endpoints from what they need."""
