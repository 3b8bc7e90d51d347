"""An analysis as a folder of pages that opens offline."""
