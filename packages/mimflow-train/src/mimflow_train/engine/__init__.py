"""How a run is spread over workers, and how they share weights and means."""
