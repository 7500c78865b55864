"""The .bin/.idx format: layout, writer, reader, verify."""
