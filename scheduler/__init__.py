"""When? The timetable, by names alone."""
