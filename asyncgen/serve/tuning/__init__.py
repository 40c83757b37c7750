"""Fine-tuning: read the uploaded files, and run the jobs one at a time."""
