"""What heads do: roles with their evidence."""
