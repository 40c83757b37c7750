"""Fine-tuning: what stands in the uploaded files, and jobs that run one after the other."""
