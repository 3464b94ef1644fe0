"""Reading torch's pickles without executing them: archive -> unpickle -> rebuild -> network."""
