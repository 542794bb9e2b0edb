"""Does DownsizeNet keep what the network behind it needs? Data, pipelines, training and results."""
