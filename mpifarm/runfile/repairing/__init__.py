"""What a damaged run file still holds, and a sound one made of it."""
