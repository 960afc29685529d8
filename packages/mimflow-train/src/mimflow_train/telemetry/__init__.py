"""What is recorded, shown and sent elsewhere while a run goes on, and how it fares."""
