"""Full fine-tuning, LoRA and QLoRA side by side: memory, time, checkpoints and what the models learned."""
