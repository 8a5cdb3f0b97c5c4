"""What it will cost, before it is paid: bytes, hours and memory of the store, of a training, and of a sweep."""
