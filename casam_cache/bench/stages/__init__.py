"""Every kind of stage, one class each: its fields are what decides its result, `compute` and reading stand together."""
