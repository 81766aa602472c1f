package cluster

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"strings"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/util/keyutil"
)

// writePKI makes what the components trust each other by: a certificate
// authority, one server certificate for all, the apiserver's client
// certificate, the key that signs service accounts' tokens, that of ssh, and a
// token and a kubeconfig for every user.
func (c Cluster) writePKI(nodes []Node) error {
	if err := os.MkdirAll(c.pki(""), 0o700); err != nil {
		return err
	}
	authority, err := newAuthority()
	if err != nil {
		return err
	}
	server := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "kubernetes"},
		DNSNames:    []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"},
		IPAddresses: []net.IP{net.ParseIP("127.0.0.1"), net.ParseIP(serviceIP)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, n := range nodes {
		server.DNSNames = append(server.DNSNames, n.Name)
		server.IPAddresses = append(server.IPAddresses, net.ParseIP(n.ip()))
	}
	client := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "apiserver", Organization: []string{"system:masters"}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	serviceAccounts, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	if err := c.writePEM("ca.crt", "CERTIFICATE", authority.certificate.Raw); err != nil {
		return err
	}
	if err := c.writeKey("sa.key", serviceAccounts); err != nil {
		return err
	}
	for name, template := range map[string]*x509.Certificate{"server": server, "client": client} {
		certificate, key, err := authority.sign(template)
		if err != nil {
			return err
		}
		if err := c.writePEM(name+".crt", "CERTIFICATE", certificate); err != nil {
			return err
		}
		if err := c.writeKey(name+".key", key); err != nil {
			return err
		}
	}
	if err := c.writeSSHKey(); err != nil {
		return err
	}
	return c.writeUsers(nodes)
}

// writeUsers gives every user a token, in the file that the apiserver reads,
// and a kubeconfig.
func (c Cluster) writeUsers(nodes []Node) error {
	type user struct{ file, name, group string }
	users := []user{
		{"admin", "admin", "system:masters"},
		{"controller-manager", "system:kube-controller-manager", ""},
		{"scheduler", "system:kube-scheduler", ""},
	}
	for _, n := range nodes {
		users = append(users, user{n.Name, "system:node:" + n.Name, "system:nodes"})
	}
	var tokens strings.Builder
	for _, u := range users {
		token := rand.Text()
		fmt.Fprintf(&tokens, "%s,%s,%s", token, u.name, u.name)
		if u.group != "" {
			fmt.Fprintf(&tokens, ",%s", u.group)
		}
		fmt.Fprintln(&tokens)
		config := clientcmdapi.NewConfig()
		config.Clusters["e2e"] = &clientcmdapi.Cluster{Server: "https://" + nodes[0].ip(), CertificateAuthority: c.pki("ca.crt")}
		config.AuthInfos[u.file] = &clientcmdapi.AuthInfo{Token: token}
		config.Contexts["e2e"] = &clientcmdapi.Context{Cluster: "e2e", AuthInfo: u.file}
		config.CurrentContext = "e2e"
		if err := clientcmd.WriteToFile(*config, c.pki(u.file+".kubeconfig")); err != nil {
			return err
		}
	}
	return os.WriteFile(c.pki("tokens.csv"), []byte(tokens.String()), 0o600)
}

type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "snapdriver-e2e"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a := &authority{certificate: template, key: key}
	raw, err := a.signKey(template, key.Public())
	if err != nil {
		return nil, err
	}
	a.certificate, err = x509.ParseCertificate(raw)
	return a, err
}

func (a *authority) sign(template *x509.Certificate) ([]byte, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	raw, err := a.signKey(template, key.Public())
	return raw, key, err
}

func (a *authority) signKey(template *x509.Certificate, key crypto.PublicKey) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().AddDate(1, 0, 0)
	return x509.CreateCertificate(rand.Reader, template, a.certificate, key, a.key)
}

func (c Cluster) writeKey(name string, key *ecdsa.PrivateKey) error {
	content, err := keyutil.MarshalPrivateKeyToPEM(key)
	if err != nil {
		return err
	}
	return os.WriteFile(c.pki(name), content, 0o600)
}

func (c Cluster) writePEM(name, kind string, raw []byte) error {
	return os.WriteFile(c.pki(name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: raw}), 0o600)
}
