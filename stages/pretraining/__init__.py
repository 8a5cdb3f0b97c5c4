"""The demo's backbone: trained on drawn streets, and measured on others."""
