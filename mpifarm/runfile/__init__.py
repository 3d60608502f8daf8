"""The run file: one HDF5 file per run, readable while written. Only this package imports h5py, and not from here."""
