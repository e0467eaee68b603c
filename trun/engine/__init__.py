"""The loop that owns one machine: messages in, one commit, effects out."""
