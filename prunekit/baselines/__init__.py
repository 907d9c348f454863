"""What every method is compared with; one file each, named like its one public function."""
