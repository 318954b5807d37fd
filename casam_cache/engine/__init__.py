"""Content-addressed stages, apart from any science: what a stage is, its folder, its code, the schedule, executors."""
