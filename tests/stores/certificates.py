"""An authority of our own, and what it certifies, for servers that speak TLS."""

import subprocess


class Certificates:
    """An authority; its files are in a directory, as ``NAME.pem`` and ``NAME.key``; the authority is called ``authority``."""

    def __init__(self, place):
        self.place = place
        self._openssl("req", "-x509", *self._new("authority", "authority of tests"), "-days", "2", "-out", "authority.pem")

    def make(self, name, subject, extension="keyUsage=digitalSignature"):
        """Certify something; answer the paths of the certificate and of its key."""
        self._openssl("req", *self._new(name, subject), "-addext", extension, "-out", f"{name}.request")
        signer = ["-CA", "authority.pem", "-CAkey", "authority.key", "-CAcreateserial"]
        self._openssl("x509", "-req", "-in", f"{name}.request", *signer, "-copy_extensions", "copy", "-days", "2", "-out", f"{name}.pem")
        return self.place / f"{name}.pem", self.place / f"{name}.key"

    @property
    def authority(self):
        return self.place / "authority.pem"

    def _new(self, name, subject):
        return ["-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-subj", f"/CN={subject}"]

    def _openssl(self, *arguments):
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=self.place)
