"""What a person reads: renderables and strings made from plans. Nothing here writes anywhere."""
