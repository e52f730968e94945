"""Teachers: what they say (`outputs`), where they come from (`registry`, `hf`), and their cache on disk."""

from embervlm.teachers.outputs import TEMPERATURE_GRID, Teacher, TeacherOutputs

__all__ = ["TEMPERATURE_GRID", "Teacher", "TeacherOutputs"]
