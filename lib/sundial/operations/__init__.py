"""What keeps the system running, and how a person talks to it: servers, the orchestrator's API, status, the demo."""
