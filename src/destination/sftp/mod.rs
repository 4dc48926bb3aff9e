//! SFTP over SSH.
