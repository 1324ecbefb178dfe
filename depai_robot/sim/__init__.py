"""The ports in software, seeded. docs/simulation.md says what each part does not model."""
