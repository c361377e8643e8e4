"""All that is about Core ML, for iPhones, iPads and Macs."""
