# Runs the operation: one JSON document comes in, one goes out.
try {
    $request = (@($input) -join '') | ConvertFrom-Json
    Send-Answer @{ answer = (Invoke-Operation $request) }
} catch {
    Send-Failure $_
}
