#!/usr/bin/perl
# Reads mails with Email::MIME and Email::Address::XS, which share no code or author with Python's parser.
# Standard input has a line with a length, then that many bytes, for each mail; each answer is a line of JSON.
use strict;
use warnings;
use Email::MIME;
use JSON::PP;
use MIME::Base64;

$| = 1;
binmode STDIN;
my $json = JSON::PP->new->ascii->canonical;

sub addresses {
    my ($mail, $name) = @_;
    my $list = $mail->header_as_obj($name) or return [];
    my @found;
    for my $address ($list->addresses) {
        my $mailbox = $address->address;
        utf8::decode($mailbox);    # raw UTF-8 (RFC 6532) is taken for Latin-1
        push @found, [defined $address->phrase ? $address->phrase : '', $mailbox];
    }
    return \@found;
}

sub part {
    my ($part) = @_;
    my $type = Email::MIME::ContentType::parse_content_type(scalar $part->header_raw('Content-Type'));
    my $disposition = Email::MIME::ContentType::parse_content_disposition(
        scalar $part->header_raw('Content-Disposition') || '');
    my @parts = $type->{type} eq 'multipart' ? $part->subparts : ();
    my $id = $part->header_raw('Content-ID');
    $id =~ s/^<(.*)>$/$1/ if defined $id;
    return {
        type => "$type->{type}/$type->{subtype}",
        parameters => $type->{attributes},
        disposition => defined $part->header_raw('Content-Disposition') ? $disposition->{type} : undef,
        filename => $part->filename,
        encoding => scalar $part->header_raw('Content-Transfer-Encoding'),
        content_id => $id,
        content => @parts ? undef : encode_base64($part->body, ''),
        parts => [map { part($_) } @parts],
    };
}

while (defined(my $length = <STDIN>)) {
    read(STDIN, my $bytes, $length) == $length or die;
    my $mail = Email::MIME->new($bytes);
    my @raw = $mail->header_raw_pairs;
    my @headers;
    while (my ($name, $value) = splice @raw, 0, 2) {
        utf8::decode($value);
        push @headers, [$name, Email::MIME::Encode::mime_decode($value)];
    }
    my %addresses = map { lc $_ => addresses($mail, $_) } qw(From To Cc Reply-To Sender);
    print $json->encode({headers => \@headers, addresses => \%addresses, root => part($mail)}), "\n";
}
