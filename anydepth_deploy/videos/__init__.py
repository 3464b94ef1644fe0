"""Videos, cameras and streams: frames in, frames out."""
