"""Pictures and objects to train on: data sets of files, augmentation, batches; generated shapes."""
