"""Taps before they are stored: what is probed, the pass that probes it, its table and what follows from that."""
