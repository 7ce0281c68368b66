"""The commands of `rsf`: their options, the call of the library, and what they print."""
