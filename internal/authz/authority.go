package authz

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/cartsshd/cartsshd/internal/strictyaml"
)

// Authorities are those whose certificates are believed, as a policy's file has
// them.
type Authorities []strictyaml.At[Authority]

// Authority is a key that signs certificates, and for whom it may speak.
type Authority struct {
	CA         strictyaml.At[Key]                                           `yaml:"ca"`
	Principals strictyaml.At[map[PrincipalPattern]strictyaml.At[Principal]] `yaml:"principals"`
	Revoked    Paths                                                        `yaml:"revoked"`
}

// Principal is what becomes of who has one.
type Principal struct {
	Groups []Name              `yaml:"groups"`
	Person strictyaml.At[Name] `yaml:"person"`
}

// PrincipalPattern is a [Glob] of principals.
type PrincipalPattern string

// UnmarshalText implements [encoding.TextUnmarshaler].
func (p *PrincipalPattern) UnmarshalText(text []byte) error {
	if err := new(Glob).UnmarshalText(text); err != nil {
		return fmt.Errorf("principal %w", err)
	}
	*p = PrincipalPattern(text)
	return nil
}

// authority is an Authority that can be asked.
type authority struct {
	line       int
	principals []principal
	revoked    []func(ssh.PublicKey) string
}

type principal struct {
	pattern Glob
	groups  []string
	person  *Subject // who it is; nil: nobody but itself
}

func (c *compiler) authorities(list Authorities) map[string]*authority {
	byKey := make(map[string]*authority, len(list))
	for _, at := range list {
		a := c.authority(at)
		key := at.Value.CA
		if key.Value == "" {
			continue // told while decoding, or by authority
		}
		if first, ok := byKey[string(key.Value)]; ok {
			c.problemf(key.Pos, "authority again (first in line %d): put all of its principals together", first.line)
			continue
		}
		byKey[string(key.Value)] = a
	}
	return byKey
}

func (c *compiler) authority(at strictyaml.At[Authority]) *authority {
	a := &authority{line: at.Value.CA.Line}
	principals := at.Value.Principals
	if missing(at.Value.CA) {
		c.problemf(at.Pos, "authority has no key: write ca: ssh-ed25519 AAAA…")
	}
	if missing(principals) || principals.Value != nil && len(principals.Value) == 0 {
		c.problemf(at.Pos, `authority speaks for nobody: write principals: {"*@corp": {groups: [sre]}}`)
	}
	patterns := slices.SortedFunc(maps.Keys(principals.Value), func(p, q PrincipalPattern) int {
		return cmp.Or(inFile(principals.Value[p].Pos, principals.Value[q].Pos), cmp.Compare(p, q))
	})
	for _, pattern := range patterns {
		a.principals = append(a.principals, c.certifies(pattern, principals.Value[pattern]))
	}
	for _, path := range at.Value.Revoked {
		a.revoked = append(a.revoked, c.revocations(path))
	}
	return a
}

func (c *compiler) certifies(pattern PrincipalPattern, at strictyaml.At[Principal]) principal {
	p := principal{groups: c.closure(at.Value.Groups)}
	p.pattern, _ = compile(string(pattern)) // told while decoding
	name := at.Value.Person
	if name.Value == "" {
		return p
	}
	if _, ok := c.persons[name.Value]; !ok {
		c.problemf(name.Pos, "%s", c.nobody(string(name.Value)))
		return p
	}
	if slices.Contains(p.pattern.pattern, anyRun) || slices.Contains(p.pattern.pattern, anyOne) {
		c.problemf(name.Pos, "all of %q would be %s: a person is one principal, without * and ?", pattern, name.Value)
	}
	who := c.person(name.Value)
	p.person = &who
	return p
}

func (c *compiler) revocations(path strictyaml.At[string]) func(ssh.PublicKey) string {
	before := len(c.problems)
	data := c.read(path)
	if len(c.problems) > before || path.Value == "" {
		return nil
	}
	if c.known.Revoked == nil {
		c.problemf(path.Pos, "no lists of what was revoked are read here")
		return nil
	}
	revoked, err := c.known.Revoked(path.Value, data)
	var problems strictyaml.Problems
	switch {
	case errors.As(err, &problems):
		c.problems = append(c.problems, problems...)
	case err != nil:
		c.problemf(path.Pos, "%v", err)
	}
	return revoked
}

// certified is who holds a certificate.
func (p *Policy) certified(cert *ssh.Certificate, by Credential) (Subject, error) {
	if cert.Key == nil || cert.SignatureKey == nil || cert.Signature == nil {
		return Subject{}, errors.New("a certificate without a key, or without a signature")
	}
	who, err := p.signed[string(cert.SignatureKey.Marshal())].certified(cert, by)
	if err != nil {
		return Subject{}, fmt.Errorf("certificate %.100q, serial number %d: %w", cert.KeyId, cert.Serial, err)
	}
	return who, nil
}

func (a *authority) certified(cert *ssh.Certificate, by Credential) (Subject, error) {
	if a == nil {
		return Subject{}, fmt.Errorf("signed by %s, which is no authority here", ssh.FingerprintSHA256(cert.SignatureKey))
	}
	if err := genuine(cert, by); err != nil {
		return Subject{}, err
	}
	for _, revoked := range a.revoked {
		if why := revoked(cert); why != "" {
			return Subject{}, errors.New(why)
		}
	}
	who, err := a.subject(cert)
	if err != nil {
		return Subject{}, err
	}
	who.Key = Key(cert.Key.Marshal())
	who.Hardware = who.Key.hardware()
	who.Certificate = &Certificate{KeyID: cert.KeyId, Serial: cert.Serial, Authority: ssh.FingerprintSHA256(cert.SignatureKey)}
	who.Bounds = boundsOf(cert)
	if cert.ValidBefore <= endOfTime {
		who.Until = earlier(who.Until, time.Unix(int64(cert.ValidBefore), 0).UTC())
	}
	if over(who.Until, by.Time) {
		return Subject{}, fmt.Errorf("%s is nobody since %s", who.Person, stamp(who.Until))
	}
	return who, nil
}

// maxPrincipals is how many OpenSSH takes.
const maxPrincipals = 256

// genuine says what is wrong with a certificate, whoever it is for.
func genuine(cert *ssh.Certificate, by Credential) error {
	switch {
	case cert.CertType != ssh.UserCert:
		return errors.New("not a certificate for users")
	case len(cert.ValidPrincipals) == 0:
		return errors.New("has no principals, and would be everybody's")
	case len(cert.ValidPrincipals) > maxPrincipals:
		return fmt.Errorf("has %d principals, and %d are the most", len(cert.ValidPrincipals), maxPrincipals)
	case cert.Signature.Format == ssh.KeyAlgoRSA:
		return errors.New("signed with SHA-1: sign it anew, with ssh-keygen -t rsa-sha2-512")
	}
	if err := weak(cert.Key); err != nil {
		return err
	}
	if err := inTime(cert, by.Time); err != nil {
		return err
	}
	if err := critical(cert, by); err != nil {
		return err
	}
	// It looks at all of the above again, and at what only it can: the signature.
	checker := ssh.CertChecker{Clock: func() time.Time { return by.Time }, SupportedCriticalOptions: []string{forceCommand, sourceAddress}}
	if err := checker.CheckCert(cert.ValidPrincipals[0], cert); err != nil {
		return errors.New(strings.TrimPrefix(err.Error(), "ssh: "))
	}
	return nil
}

// inTime takes the first second of a certificate, and not the last.
func inTime(cert *ssh.Certificate, now time.Time) error {
	switch at := now.Unix(); {
	case now.IsZero() || at < 0:
		return errors.New("the time is not known")
	case uint64(at) < cert.ValidAfter:
		return fmt.Errorf("not valid before %s", stampOf(cert.ValidAfter))
	case uint64(at) >= cert.ValidBefore:
		return fmt.Errorf("not valid since %s", stampOf(cert.ValidBefore))
	}
	return nil
}

// endOfTime is the last second of the year 9999: what ends later has no end.
const endOfTime = 253402300799

func stampOf(seconds uint64) string {
	if seconds > endOfTime {
		return "the year 10000"
	}
	return stamp(time.Unix(int64(seconds), 0))
}

// The critical options that are known, and enforced.
const (
	forceCommand  = "force-command"
	sourceAddress = "source-address"
)

func critical(cert *ssh.Certificate, by Credential) error {
	for _, name := range slices.Sorted(maps.Keys(cert.CriticalOptions)) {
		value := cert.CriticalOptions[name]
		switch name {
		case forceCommand:
			if strings.TrimSpace(value) == "" {
				return errors.New("its force-command names no command")
			}
		case sourceAddress:
			if err := comesFrom(value, by); err != nil {
				return err
			}
		case "verify-required":
			return errors.New("asks for verify-required, and whether a token asked for its PIN is not told here")
		default:
			return fmt.Errorf("has the critical option %.80q, which is not known", name)
		}
	}
	return nil
}

func comesFrom(list string, by Credential) error {
	from := by.From.Unmap()
	inside := false
	for _, word := range strings.Split(list, ",") {
		var s Source
		if err := s.UnmarshalText([]byte(word)); err != nil {
			return fmt.Errorf("its source-address has %.80q, which is no network", word)
		}
		inside = inside || s.Contains(from)
	}
	if !inside {
		return fmt.Errorf("for use from %.200s, and not from %s", list, addressWords(from))
	}
	return nil
}

// boundsOf are what a certificate does not permit. Other extensions permit what
// nobody has here, or are not known, and may be passed over.
func boundsOf(cert *ssh.Certificate) Bounds {
	lacks := func(name string) bool { _, ok := cert.Extensions[name]; return !ok }
	return Bounds{
		Command:      cert.CriticalOptions[forceCommand],
		NoPTY:        lacks("permit-pty"),
		NoForwarding: lacks("permit-port-forwarding"),
		NoAgent:      lacks("permit-agent-forwarding"),
	}
}

// subject is who an authority says somebody is, as far as it may.
func (a *authority) subject(cert *ssh.Certificate) (who Subject, err error) {
	var groups []string
	for _, name := range cert.ValidPrincipals {
		for _, p := range a.principals {
			if !isPlain(name) || !p.pattern.Match(name) {
				continue
			}
			who.Principals = insert(who.Principals, name)
			groups = insert(groups, p.groups...)
			if who, err = who.also(p.person); err != nil {
				return Subject{}, err
			}
		}
	}
	if who.Principals == nil {
		return Subject{}, fmt.Errorf("its authority may not speak for any of its principals: %.100q", cert.ValidPrincipals)
	}
	who.Person = cmp.Or(who.Person, who.Principals[0])
	who.Groups = insert(slices.Clone(who.Groups), groups...)
	return who, nil
}

// also is somebody who is this person of the policy, too.
func (s Subject) also(person *Subject) (Subject, error) {
	if person == nil || s.Person == person.Person {
		return s, nil
	}
	if s.Person != "" {
		return s, fmt.Errorf("its principals are two people: %s and %s", s.Person, person.Person)
	}
	principals := s.Principals
	s = *person
	s.Principals = principals
	return s, nil
}

// isPlain is not true of a name that may look like another, or that a terminal
// would obey.
func isPlain(name string) bool {
	other := func(r rune) bool { return r <= ' ' || r > '~' }
	return name != "" && len(name) <= 256 && strings.IndexFunc(name, other) < 0
}
