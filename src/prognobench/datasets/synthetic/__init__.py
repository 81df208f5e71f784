"""The generator of synthetic chest images: anatomy, device, patients. No clinical data."""
