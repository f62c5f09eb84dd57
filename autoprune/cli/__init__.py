"""The command line: options in, one line of error or a readable result out."""
