# Beside the plain listener on loopback that `-dev` brings: the broker comes by TLS.
listener "tcp" {
  address       = "0.0.0.0:8300"
  tls_cert_file = "/store/store.crt"
  tls_key_file  = "/store/store.key"
}
