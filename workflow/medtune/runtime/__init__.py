"""What every room needs: errors, messages, files, manifests, code hashes. No medicine."""
