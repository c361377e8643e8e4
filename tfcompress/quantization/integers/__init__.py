"""What `finalize` makes: layers that compute what integer kernels compute."""
